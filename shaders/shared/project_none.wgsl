// A norm whose result no adapted linear reads.
fn project(row: u32, block: u32) {}
