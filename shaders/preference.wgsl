// One thread a pair: its loss and rewards, and for each of its targets what the gradient of the target's cross-entropy
// counts in that of the loss.
@group(0) @binding(2) var<storage, read> batch: Pairs;
// Cross-entropies, -ln p, of the targets.
@group(0) @binding(3) var<storage, read> losses: array<f32>;
// Of the targets.
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;
// (loss, reward of the chosen one, reward of the rejected one, ln sigmoid(z)) of the pairs.
@group(0) @binding(5) var<storage, read_write> outcomes: array<vec4<f32>>;

fn log_probability(first: u32, end: u32) -> f32 {
    for (var at = first; at < end; at += 1u) {
        pairwise_add(at - first, losses[at]);
    }
    return -pairwise_total(end - first);
}

fn set_weights(first: u32, end: u32, weight: f32) {
    for (var at = first; at < end; at += 1u) {
        weights[at] = weight;
    }
}

fn softplus(x: f32) -> f32 {
    return max(x, 0.0) + log_f32(1.0 + exp_f32(-abs(x)));
}

// 1 - e^a for a < 0. What is lost of 1 - u where u is close to 1 is lost of ln u alike, and their ratio is not (Kahan).
fn one_minus_exp(a: f32) -> f32 {
    let u = exp_f32(a);
    if (u == 1.0) {
        return -a;
    }
    return select((1.0 - u) * (a / log_f32(u)), 1.0 - u, a < -1.0);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    if (global_id.x >= batch.n) {
        return;
    }
    let pair = batch.pairs[global_id.x];
    let chosen = log_probability(pair.completion, pair.rejected);
    let rejected = log_probability(pair.rejected, pair.end);
    let beta = params.beta;
    // The loss is nll + factor · softplus(-z); slopes are dz/dc and -dz/dr.
    var factor = 1.0;
    var z: f32;
    var rewards: vec2<f32>;
    var slopes = vec2<f32>(beta);
    var nll = 0.0;
    if (ORPO == 0u) {
        rewards = beta * vec2<f32>(chosen - pair.reference_chosen, rejected - pair.reference_rejected);
        z = rewards.x - rewards.y;
    } else {
        let n = vec2<f32>(f32(pair.rejected - pair.completion), f32(pair.end - pair.rejected));
        // The odds of a certainty are infinite: nothing is surer than f32 can say.
        let a = min(vec2<f32>(chosen, rejected) / n, vec2<f32>(-1.1920929e-7));
        let complements = vec2<f32>(one_minus_exp(a.x), one_minus_exp(a.y));
        factor = beta;
        z = (a.x - a.y) - (log_f32(complements.x) - log_f32(complements.y));
        rewards = beta * a;
        slopes = 1.0 / (complements * n);
        nll = pair.nll_weight * -(log_probability(pair.start, pair.completion) + chosen);
    }
    let pull = factor * sigmoid_f32(-z);
    set_weights(pair.start, pair.completion, pair.nll_weight);
    set_weights(pair.completion, pair.rejected, pair.nll_weight + pull * slopes.x);
    set_weights(pair.rejected, pair.end, -pull * slopes.y);
    outcomes[global_id.x] = vec4<f32>(nll + factor * softplus(-z), rewards, -softplus(-z));
}
