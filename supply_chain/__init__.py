"""`make audit`: what this software is made of, what is known against it, and what got into it."""
