"""What `puna chat` is made of: one file a part. The verb and its loop stand in `cli/chat.py`."""
