"""Dense CRF and scores: what turns score maps into better masks, and masks into figures. Imports no torch."""
