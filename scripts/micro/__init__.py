"""The micro panel: its world, its tokenizer, its network and its export; nothing of localfusion imports this."""
