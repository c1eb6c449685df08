"""Bodies no well-meaning caller sends, judged by a reading of them that shares no code with ours."""
