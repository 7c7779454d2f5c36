"""BSS Eval v4: SDR, ISR, SIR and SAR; `engine` has the definitions."""
