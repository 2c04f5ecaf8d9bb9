// What shared/tiles.wgsl keeps and multiplies.
alias Value = f32;
