"""Tests of keepstep; they mirror src."""
