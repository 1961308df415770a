"""The reliability campaign: what LUQ does when it is killed, damaged, misused, or run twice."""
