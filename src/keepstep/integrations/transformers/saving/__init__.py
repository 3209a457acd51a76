"""How the saves of one managed training are carried out."""
