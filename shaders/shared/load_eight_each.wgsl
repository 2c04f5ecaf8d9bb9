// load_NAME(at, d) of eight rows.
fn load_eight_NAME(at: Eight, d: u32) -> EightVec4s {
    return EightVec4s(
        mat4x4<f32>(load_NAME(at.lo.x, d), load_NAME(at.lo.y, d), load_NAME(at.lo.z, d), load_NAME(at.lo.w, d)),
        mat4x4<f32>(load_NAME(at.hi.x, d), load_NAME(at.hi.y, d), load_NAME(at.hi.z, d), load_NAME(at.hi.w, d)),
    );
}
