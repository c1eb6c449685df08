"""How usage arrives over HTTP: CloudEvents in, one outcome per event out."""
