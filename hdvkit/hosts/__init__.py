"""The device hosts of platforms that hdvkit exists for."""
