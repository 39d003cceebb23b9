//! The engine: ports, the pipeline and the workers that run it.
