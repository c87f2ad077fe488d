"""Pools: how a child's slots run. They say nothing about claiming and settling."""
