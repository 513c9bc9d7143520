"""The engine: one worker process per GGUF file, and the async client that speaks to it.

`client` is what the layers above use. `worker` and all it imports run in the child process only, and
are the only places where llama_cpp and llguidance are imported. `grammar` holds pure text.
"""
