"""What a person runs: llamboctl and the programs beside it.  Imported by nobody;
installed as `llambo9p_tools`.  Inside, imports are relative."""
