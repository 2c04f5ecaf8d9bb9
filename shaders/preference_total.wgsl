// metrics[0] += the pairs' share of the step's mean loss, metrics[4 ..] += those of the mean reward of the chosen ones, of
// the rejected ones, of the share of pairs whose chosen one has the larger, and of the mean of ln sigmoid(z).
//
// A single thread: a pass has hundreds of pairs at most, and their order stays fixed.
@group(0) @binding(2) var<storage, read> batch: Pairs;
@group(0) @binding(3) var<storage, read> outcomes: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> metrics: array<f32>;

@compute @workgroup_size(1)
fn main() {
    var sum = vec4<f32>(0.0);
    var n_right = 0.0;
    for (var i = 0u; i < batch.n; i += 1u) {
        let outcome = outcomes[i];
        sum += outcome;
        n_right += select(0.0, 1.0, outcome.y > outcome.z);
    }
    sum *= step.loss_scale;
    metrics[0] += sum.x;
    metrics[4] += sum.y;
    metrics[5] += sum.z;
    metrics[6] += n_right * step.loss_scale;
    metrics[7] += sum.w;
}
