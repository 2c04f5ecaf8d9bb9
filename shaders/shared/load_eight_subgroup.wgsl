// load_NAME(at, d) of eight rows.
fn load_eight_NAME(at: Eight, d: u32) -> EightVec4s {
    return hand_round(load_NAME(at, d));
}
