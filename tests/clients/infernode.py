"""What a shell does with `llm/` on a mount, and what it sees."""

from __future__ import annotations

SCRIPT = """
        n=$(cat llm/new); ls -1 llm/$n
        echo What is a file? >llm/$n/ask; cat llm/$n/ask
        echo And a fid? >>llm/$n/ask; cat llm/$n/stream; echo
        exec 3<>llm/$n/ask; echo Once more. >&3; cat $n/out; exec 3>&-; echo
        cut -c 1-41 llm/$n/context
        echo close >llm/$n/ctl; ls llm
    """
SAYS = [
    "ask", "context", "ctl", "maxtokens", "stream", "system", "temperature", "usage",
    "simulated: What is a file?",
    "simulated: And a fid?",
    "simulated: And a fid?",
    '[{"role":"user","content":"What is a file',
    "new",
]  # fmt: skip
