// A row of the batch. Same order as `kernels::Token`.
struct Token {
    id: u32,
    // In its segment, from 0.
    position: u32,
    // The segment's first key row, and one past its last. The token's own key row is start + position.
    start: u32,
    end: u32,
}
