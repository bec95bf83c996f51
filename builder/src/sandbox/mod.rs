//! The `sandbox`: runs a program of an image's root or of the tools tree in namespaces of its own.
