enable f16;
// What shared/tiles.wgsl keeps and multiplies: half the workgroup memory and, on many GPUs, twice the rate.
alias Value = f16;
