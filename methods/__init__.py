"""Compression methods, one file each; every one registers through an entry point, as a third party's would."""
