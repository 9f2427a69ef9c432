"""The acoustic model, its layers, the CTC loss, and the recogniser that holds them."""
