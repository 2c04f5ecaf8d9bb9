// Eight rows that neighbouring threads read alike. Here, without subgroups, every thread loads all of them; as
// eight_subgroup.wgsl has it, each loads one.
const HANDED_ROUND: bool = false;

struct Thread {
    // In its workgroup.
    @builtin(local_invocation_index) index: u32,
}

// Where they start.
struct Eight {
    lo: vec4<u32>,
    hi: vec4<u32>,
}

// Four values of each, a column each.
struct EightVec4s {
    lo: mat4x4<f32>,
    hi: mat4x4<f32>,
}

// Row u starts at u / group · stride + u % group · inner + base.
struct Place {
    group: u32,
    stride: u32,
    inner: u32,
    base: u32,
}

// Rows start .. start + 8, the last one repeated past it.
fn eight_at(thread: Thread, start: u32, last: u32, place: Place) -> Eight {
    let lo = min(vec4<u32>(start) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last));
    let hi = min(vec4<u32>(start) + vec4<u32>(4u, 5u, 6u, 7u), vec4<u32>(last));
    return Eight(
        lo / place.group * place.stride + lo % place.group * place.inner + place.base,
        hi / place.group * place.stride + hi % place.group * place.inner + place.base,
    );
}

// True if a thread may leave: here, if it has nothing to do.
fn nobody(idle: bool) -> bool {
    return idle;
}

// Bounds of a loop over rows that threads read alike: here, a thread's own.
fn least(first: u32) -> u32 {
    return first;
}

fn most(last: u32) -> u32 {
    return last;
}
