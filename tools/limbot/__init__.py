"""limbot, the chat: a conversation of the cluster, at a prompt or for one question."""
