"""Tests of the schedule language."""
