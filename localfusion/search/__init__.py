"""Search and fetch over local documents, and the door (`Source`) for any other backend."""
