"""Hosts on Ray: one detached actor a host, which runs it as a process of its own.

Three processes have a part, and only the last two import Ray: the orchestrator has a
`launcher.RayLauncher`; its child is the `driver`, which speaks with Ray; on each of Ray's nodes
an `actor.HostActor` starts a host.  Ray ends the process of a driver whose cluster is gone, and a
call into Ray may block for minutes: so no driver is ever a part of the orchestrator.
"""
