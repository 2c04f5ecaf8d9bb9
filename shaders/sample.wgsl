// The next token of one row of logits: the likeliest, or one drawn from softmax(logits / temperature) over its nucleus,
// the fewest likeliest tokens whose probabilities reach top_p. Ties go to the lower id.
//
// Logits are compared by their bits, as integers in the order of the numbers (and of NaNs, beyond the infinities).
// The nucleus ends at a logit and, among tokens of that very logit, at an id; both are found two bits at a time, each
// time from the mass that three candidates would leave. The draw is a race: token i arrives after an exponentially
// distributed time of rate exp(logits[i] / temperature), and the first wins with the probability of the softmax.
//
// One workgroup: it goes over the logits once for the likeliest and some 25 times for a draw from a nucleus.
struct Params {
    // Columns, the vocabulary.
    width: u32,
    // Bits of an id, an even number.
    id_bits: u32,
    _pad0: u32,
    _pad1: u32,
}
struct Sampling {
    seed: vec2<u32>,
    // Of the token to choose.
    position: u32,
    // At 0 the likeliest is taken.
    temperature: f32,
    top_p: f32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
// f32 bits, [1, width].
@group(0) @binding(3) var<storage, read> logits: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> chosen: array<u32>;

const FOUR = vec4<u32>(0u, 1u, 2u, 3u);
const ALL = vec4<u32>(0xffffffffu);
const SIGN = vec4<u32>(0x80000000u);
// Below this temperature exponents could overflow.
const COLDEST = 1e-6;
// Exponents below this count for nothing: e^-80 next to 1.
const FARTHEST = -80.0;
const INFINITY = vec4<u32>(0x7f800000u);

var<workgroup> sums: array<vec4<f32>, THREADS>;
// (key, id)
var<workgroup> bests: array<vec2<u32>, THREADS>;

// Four tokens. Those that are no finite number, and pads, lie as far down as nothing that is drawn.
struct Four {
    ids: vec4<u32>,
    keys: vec4<u32>,
    // (logit - largest) / temperature
    exponents: vec4<f32>,
}

fn is_pad(c: u32) -> vec4<bool> {
    return c * 4u + FOUR >= vec4<u32>(params.width);
}

// Integers that order as logits do; 0 for pads.
fn keys_at(c: u32) -> vec4<u32> {
    let bits = logits[c];
    return select(bits ^ select(SIGN, ALL, bits >= SIGN), vec4<u32>(0u), is_pad(c));
}

fn four_at(c: u32, largest: f32) -> Four {
    let bits = logits[c];
    let is_left_out = ((bits & INFINITY) == INFINITY) | is_pad(c);
    let finite = bitcast<vec4<f32>>(select(bits, vec4<u32>(0u), is_left_out));
    let exponents = select((finite - largest) / sampling.temperature, vec4<f32>(-1e30), is_left_out);
    return Four(c * 4u + FOUR, keys_at(c), exponents);
}

fn count(these: vec4<bool>) -> u32 {
    return dot(select(vec4<u32>(0u), vec4<u32>(1u), these), vec4<u32>(1u));
}

// Which of four tokens come before the place (key, id).
fn before(four: Four, key: u32, id: u32) -> vec4<bool> {
    let k = vec4<u32>(key);
    return (four.keys > k) | ((four.keys == k) & (four.ids < vec4<u32>(id)));
}

// Σ exp((logit - largest) / temperature) of the tokens before each of four places.
fn masses(thread: u32, largest: f32, key: vec4<u32>, id: vec4<u32>) -> vec4<f32> {
    let none = vec4<f32>(0.0);
    var sum = none;
    for (var c = thread; c * 4u < params.width; c += THREADS) {
        let four = four_at(c, largest);
        let w = select(none, exp_vec4(four.exponents), four.exponents > vec4<f32>(FARTHEST));
        sum += vec4<f32>(
            dot(select(none, w, before(four, key.x, id.x)), vec4<f32>(1.0)),
            dot(select(none, w, before(four, key.y, id.y)), vec4<f32>(1.0)),
            dot(select(none, w, before(four, key.z, id.z)), vec4<f32>(1.0)),
            dot(select(none, w, before(four, key.w, id.w)), vec4<f32>(1.0)),
        );
    }
    sums[thread] = sum;
    for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if (thread < half) {
            sums[thread] += sums[thread + half];
        }
    }
    return workgroupUniformLoad(&sums[0]);
}

fn better(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return select(a, b, b.x > a.x || (b.x == a.x && b.y < a.y));
}

fn better_of_four(best: vec2<u32>, keys: vec4<u32>, ids: vec4<u32>) -> vec2<u32> {
    let lo = better(vec2<u32>(keys.x, ids.x), vec2<u32>(keys.y, ids.y));
    let hi = better(vec2<u32>(keys.z, ids.z), vec2<u32>(keys.w, ids.w));
    return better(best, better(lo, hi));
}

fn best_of_all(thread: u32, best: vec2<u32>) -> vec2<u32> {
    bests[thread] = best;
    for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if (thread < half) {
            bests[thread] = better(bests[thread], bests[thread + half]);
        }
    }
    return workgroupUniformLoad(&bests[0]);
}

// -ln(1 - u) of a uniform u. It is the small ones that win, so those must not round.
fn exponential(word: u32) -> f32 {
    let u = min((f32(word) + 0.5) * 2.3283064365e-10, 0.99999994);
    return select(-log_f32(1.0 - u), u * (1.0 + u * (0.5 + u * 0.33333333)), u < 0.004);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    let nobody = vec2<u32>(0u, 0xffffffffu);
    var best = nobody;
    for (var c = thread; c * 4u < params.width; c += THREADS) {
        best = better_of_four(best, keys_at(c), c * 4u + FOUR);
    }
    let likeliest = best_of_all(thread, best);
    let largest_bits = likeliest.x ^ select(0xffffffffu, SIGN.x, likeliest.x >= SIGN.x);
    if (sampling.temperature < COLDEST || (largest_bits & INFINITY.x) == INFINITY.x) {
        chosen[0] = likeliest.y;
        return;
    }
    let largest = bitcast<f32>(largest_bits);

    // The nucleus: tokens before the place (key, id + 1). At first all but pads.
    var key = 1u;
    var id = 0xfffffffeu;
    if (sampling.top_p < 1.0) {
        let goal = sampling.top_p * masses(thread, largest, vec4<u32>(0u), ALL).x;
        // The largest key such that the tokens from it up reach the goal.
        key = 0u;
        for (var bits = 32u; bits > 0u; bits -= 2u) {
            let reached = masses(thread, largest, key + (FOUR << vec4<u32>(bits - 2u)), ALL) >= vec4<f32>(goal);
            key += (count(reached) - 1u) << (bits - 2u);
        }
        // The first id of that key with which they do: the one place where they do not without it.
        id = 0u;
        for (var bits = params.id_bits; bits > 0u; bits -= 2u) {
            let short = masses(thread, largest, vec4<u32>(key), id + (FOUR << vec4<u32>(bits - 2u))) < vec4<f32>(goal);
            id += (count(short) - 1u) << (bits - 2u);
        }
    }

    best = nobody;
    for (var c = thread; c * 4u < params.width; c += THREADS) {
        let four = four_at(c, largest);
        let words = random(vec4<u32>(sampling.seed, sampling.position, c));
        let wait = exp_vec4(min(-four.exponents, vec4<f32>(-FARTHEST)));
        let times = wait * vec4<f32>(exponential(words.x), exponential(words.y), exponential(words.z), exponential(words.w));
        // Bits of positive numbers order as they do; the earliest is to be the largest.
        best = better_of_four(best, select(vec4<u32>(0u), ~bitcast<vec4<u32>>(times), before(four, key, id + 1u)), four.ids);
    }
    chosen[0] = best_of_all(thread, best).y;
}
