"""What is said on the wire, as pydantic classes: documents, requests, replies, events. Carries nothing."""
