"""Several methods on one's own images: is one of them worth it?"""
