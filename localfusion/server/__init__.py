"""The server: OpenAI's and OpenRouter's protocols over HTTP. Decides nothing about a deliberation."""
