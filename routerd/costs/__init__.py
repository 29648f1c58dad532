"""What work costs: models of service time, the choice among candidates, and the fingerprint that keys measurements."""
