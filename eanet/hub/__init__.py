"""Push a run to the Hugging Face Hub, pull it back, write its card, and promote it to the shipped run."""
