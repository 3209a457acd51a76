"""A command under supervision: started, watched, told apart by how it ended, and started again."""
