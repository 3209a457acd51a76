"""Situations that people report, each trained by the stock Trainer alone and by ours, and judged side by side."""
