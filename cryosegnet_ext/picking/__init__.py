"""One micrograph: from pixels to picks."""
