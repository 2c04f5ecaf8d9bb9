// Eight rows that all threads of a subgroup read alike: each thread loads one, and hands it round. Subgroups have eight
// threads or more, and all of them stay to the end. naga wants no `enable subgroups;`, and no browser gets this.
const HANDED_ROUND: bool = true;

struct Thread {
    // In its workgroup.
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_invocation_id) lane: u32,
}

// Where the one starts that this thread loads.
alias Eight = u32;

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
    let u = min(start + thread.lane % 8u, last);
    return u / place.group * place.stride + u % place.group * place.inner + place.base;
}

fn hand_round(v: vec4<f32>) -> EightVec4s {
    return EightVec4s(
        mat4x4<f32>(
            subgroupBroadcast(v, 0u), subgroupBroadcast(v, 1u), subgroupBroadcast(v, 2u), subgroupBroadcast(v, 3u)),
        mat4x4<f32>(
            subgroupBroadcast(v, 4u), subgroupBroadcast(v, 5u), subgroupBroadcast(v, 6u), subgroupBroadcast(v, 7u)),
    );
}

// True if a thread may leave: if none of its subgroup has anything to do.
fn nobody(idle: bool) -> bool {
    return subgroupAll(idle);
}

// Bounds of a loop over rows that threads read alike: the subgroup's.
fn least(first: u32) -> u32 {
    return subgroupMin(first);
}

fn most(last: u32) -> u32 {
    return subgroupMax(last);
}
