//! Shader source as it is compiled: constants, shared snippets and one kernel, joined in that order.
//!
//! Module scope in WGSL is order-independent, so joining text is all the import system there is.

use std::fmt::Write;
use std::rc::Rc;

use super::counted::Counted;

/// WGSL wants it before all else.
const ENABLE_F16: &str = "enable f16;\n";

/// A kernel's complete WGSL. Equal sources share one pipeline.
#[derive(Clone, Debug)]
pub struct Shader {
    name: &'static str,
    source: Rc<str>,
}

impl Shader {
    /// Joins `constants` (as `const NAME: u32 = value;`), the step uniform, and `parts`. A part that begins with
    /// `enable f16;` enables it for all.
    pub fn new(name: &'static str, constants: &[(&str, u32)], parts: &[&str]) -> Self {
        let mut source = String::new();
        if parts.iter().any(|part| part.starts_with(ENABLE_F16)) {
            source.push_str(ENABLE_F16);
        }
        for (constant, value) in constants {
            writeln!(source, "const {constant}: u32 = {value}u;").expect("writing to a string");
        }
        source.push_str(include_str!("../../shaders/shared/step.wgsl"));
        parts.iter().for_each(|part| source.push_str(part.strip_prefix(ENABLE_F16).unwrap_or(part)));
        Self { name, source: source.into() }
    }

    /// The file stem under `shaders/`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The WGSL text as it is compiled.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn source_rc(&self) -> Rc<str> {
        self.source.clone()
    }

    /// Binding numbers and kinds, read off the declarations, so that the shader is the only place that states them.
    /// (An automatic layout would leave out what an entry point happens not to use.)
    pub(super) fn bindings(&self) -> Vec<(u32, wgpu::BufferBindingType)> {
        let mut bindings: Vec<_> = self
            .source
            .lines()
            .filter_map(|line| {
                let rest = line.trim_start().strip_prefix("@group(0) @binding(")?;
                let (index, rest) = rest.split_once(')')?;
                let kind = if rest.contains("var<uniform>") {
                    wgpu::BufferBindingType::Uniform
                } else {
                    wgpu::BufferBindingType::Storage { read_only: !rest.contains("read_write") }
                };
                Some((index.parse().ok()?, kind))
            })
            .collect();
        bindings.sort_by_key(|(index, _)| *index);
        bindings
    }
}

/// A compiled shader with its layout.
pub(super) struct Pipeline {
    pub(super) wgpu: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    /// Binding numbers in order; 0 is the step, 1 the parameters, the rest storage.
    pub(super) indices: Vec<u32>,
}

impl Pipeline {
    pub(super) fn new(device: &Counted, shader: &Shader) -> Self {
        let bindings = shader.bindings();
        let entries: Vec<_> = bindings
            .iter()
            .map(|&(binding, ty)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            })
            .collect();
        let layout = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(shader.name), entries: &entries });
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(shader.name),
            source: wgpu::ShaderSource::Wgsl(shader.source().into()),
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(shader.name),
            bind_group_layouts: &[Some(&layout)],
            ..Default::default()
        });
        let wgpu = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        Self { wgpu, layout, indices: bindings.into_iter().map(|(index, _)| index).collect() }
    }
}
