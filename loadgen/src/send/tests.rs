//! Whole runs of a core on the simulator.
