//! The sink on the simulator.
