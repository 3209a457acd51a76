"""Two checkpoints side by side: what they were made with, and how far each tensor moved. Nothing is unpickled."""
