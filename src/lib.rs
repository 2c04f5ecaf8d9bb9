//! web-lora fine-tunes small language models in a browser tab: a frozen base model runs forward and backward on
//! WebGPU compute shaders, LoRA factors are trained on it, and the adapter comes out as PEFT's two files. The same
//! crate runs natively over Vulkan, which is where most of its tests run.
//!
//! # The way of the data
//!
//! ```text
//! files            GGUF, or config.json + safetensors + tokenizer.json           io::ByteSource
//!   └─ io          parse and check: plain structs out                            io::Checkpoint, io::Tokenizer
//!   └─ data        record → template → tokens → which are supervised → packs     data::Dataset
//!   └─ model       one file for each model_type: a recipe for the one decoder    model::Decoder
//!   └─ layers      forward and backward side by side; linear.rs alone knows      layers::Linear
//!                  a frozen weight AND its LoRA pair, dora.rs what DoRA adds
//!   └─ kernels     one .rs for each shaders/*.wgsl, with an f64 reference        kernels::matmul, …
//!   └─ gpu         recording (plain data) → plan (memory, bind groups) → replay  gpu::Recording, gpu::Plan
//! lora             all factors in one arena, PEFT's names and initialisation     lora::Adapter
//! init             a fresh adapter; first factors made of the weights                   init::adapter
//! low_rank         what ΔW = scaling · B A is: cost, singular values, smaller ranks, sums    low_rank::spectrum
//! train, generate  the recorded training step; prompt and token-by-token passes  train::Trainer, generate::Generator
//! merge            base and adapter as one model's files                         merge::merge
//! profile          where the time of a step goes                                 profile::Profile
//! engine           the one object users drive                                    engine::Engine
//! bench            what a device makes of it all, for `make bench`               bench::measure
//! web              its JavaScript face (wasm only)                               web::Engine
//! ```
//!
//! Arrows point down only.
//!
//! # Decisions
//!
//! **A step is recorded once and replayed.** Architecture code appends dispatches, clears and copies over virtual
//! buffers to a [`gpu::Recording`]. A [`gpu::Plan`] gives each transient buffer a slot by its first and last use,
//! compiles each distinct shader once and makes every bind group; a replay then writes one small uniform
//! ([`gpu::Step`]), encodes and submits. What changes from step to step (how many tokens, how many targets, learning
//! rate, adapter strength) is in that uniform, so one recording serves every batch; the options that a recording does
//! depend on are a [`train::Recorded`]. A step of one pass is one submit, and
//! a steady step creates nothing: every call that creates, maps or submits goes through a counting device, and a test
//! holds the counts to that. Submits are cut by floating-point operations only so that none comes near a watchdog; after
//! the first step the cut follows the measured rate.
//!
//! **Memory is known on paper.** [`gpu::Gpu::paper`] is a device without a GPU: buffers only count their bytes and plans
//! compile nothing. The code that loads a model, makes an adapter and records its training runs on it unchanged, so the
//! memory planned ([`train::MemoryPlan`]) is the memory allocated. Under a budget the planner gives up the activations of
//! as few half layers as will do, and those are computed again by the same calls when the backward pass comes to them:
//! dropping a `Saved` is all that recomputing is.
//!
//! **Every entry can be timed.** A [`gpu::Plan`] replays an entry at a time under the GPU's clock (or by waiting where
//! there is none), and a recording states the floating-point operations and bytes of each.
//!
//! **A step is one flat row of tokens.** There is no batch axis and no padding: examples are packed end to end, each
//! token carries its position and its segment, attention stays inside the segment. The loss is the mean over every
//! supervised token of the whole optimiser step, however many passes it takes.
//!
//! **Matrices have padded rows.** Rows lie a multiple of eight columns apart and the columns past the width are zero:
//! whoever writes a matrix writes those too. Row capacities are multiples of sixteen, and rows past the step's count
//! are computed but never read by another row. So no inner loop asks where a row ends, and any width works.
//!
//! **An architecture is a recipe.** Llama, Mistral, Qwen 2 and 3, Phi-3, Gemma 3 and GPT-2 differ in names, norms,
//! biases, windows, rotary frequencies, an activation, and in which linears are stored as one. A `Recipe` says these, and
//! one decoder loads and runs it, so that each architecture is a file of its `config.json`'s rules and nothing else, and
//! what is proved for one (recomputing, memory plans, generation) holds for all. GGUF's names are put into Hugging Face's
//! where the file is read (`io::gguf_model`), and an adapter is named alike whatever the base came from.
//!
//! **Forward and backward are written out.** The graph is fixed and the base frozen. A layer's forward returns a
//! `Saved` with what its backward reads. Nothing of the size of a weight is formed, and nothing is computed below the
//! lowest adapted module.
//!
//! **Frozen weights stay as the file has them.** Block types are repacked once (scales apart, eight columns to aligned
//! words) and dequantised where a product loads them, in both directions. Q4_0 and Q4_1 share a layout, as do Q5_0 and
//! Q5_1: the zero point becomes a minimum, exactly. Q4_K and Q5_K lie as these do, with scales of their own; IQ4_NL and
//! IQ4_XS share a layout and a table. A model in plain numbers can be read as if its file were quantised
//! ([`io::Checkpoint::quantized`]): nothing above `io` can tell, the memory plan included.
//! llama.cpp's row order of q and k is undone while loading, so an adapter trained on a GGUF fits the original model, and
//! the weights that GPT-2 keeps as `[in, out]` are turned. A weight over the binding limit is cut into parts.
//!
//! **LoRA is part of the linear.** `y = x Wᵀ + s (x Aᵀ) Bᵀ` is one product whose sum runs on for `r` more terms, and so
//! is its backward. Strength 0 to 1 (and beyond) is a number in the step's uniform. Modules may have ranks and alphas of
//! their own: there is room for the largest rank in each, what is past a module's own is zero and stays so, and where
//! linears of one product scale differently, the difference is a factor of their low-rank values.
//!
//! **DoRA is a factor of each column of that product**, and its magnitudes lie in the arena beside A and B. The factors
//! come of the weights alone, so that a pass works them out once, before its tokens, without forming a weight; what the
//! product was before them is computed again for the way back rather than kept. At strength λ the directions are those of
//! `W + λ s B A` and the magnitudes `(1 - λ) ‖W‖ + λ m`: 0 is the base and 1 the adapter as trained, as without DoRA. (PEFT's
//! own scale leaves the magnitudes as they are, and has no base at 0.)
//!
//! **Biases and norms can be trained as they are** (PEFT's `bias` and `modules_to_save`), off by default. They lie in the arena
//! after all factors, and are clipped, stepped, kept and counted with these; the base's own lie beside them, and a pass begins
//! by working out `(1 - λ) original + λ trained` for its kernels: at strength 0 the base to the bit, which is also what DPO
//! measures against (PEFT's biases stay trained there). Their gradients are sums over the columns of what passes anyway. A
//! recording without them is what it was.
//!
//! **Few dispatches, few passes over memory.** Linears that read one matrix are one product whose outputs lie in one
//! matrix: q, k and v side by side, gate and up by turns of four columns, so that a thread has both and writes
//! `act(gate) · up` as it stores them (and their gradients on the way back). Residuals are added where a block's last
//! linear stores; a norm also multiplies by the A of the linears that read it; attention's gradients are turned back
//! through the rotary embedding where they are written; dA and dB of half a layer are one kernel. A layer with seven
//! adapted matrices is 24 dispatches, forward and backward; a norm of query and key heads shares the rotary embedding's on
//! the way there and is one more on the way back, and each norm after a block is two.
//!
//! **Products come in variants, one for each kind of device** ([`gpu::Variant`]). Programs on the CPU (SwiftShader,
//! lavapipe) load lane by lane, and do best with large register blocks and no workgroup memory; GPUs do best with tiles
//! in workgroup memory. `kernels::probe` verifies each on the device, times it, and keeps the fastest; the page
//! remembers that per adapter and build, and `?variant=` or `WEB_LORA_VARIANT` force one. f16 products exist for the
//! forward pass and are never chosen unasked: what comes out is what PEFT computes.
//!
//! **What neighbours read alike, one of them loads.** Kernels that go through rows together (products through those of x,
//! attention through keys, a norm through those of A) ask for eight of them at a time: `shaders/shared/eight_each.wgsl` has
//! every thread load all eight, `eight_subgroup.wgsl` one, which it hands round. On lavapipe, where a load is a loop over
//! lanes, a step takes half as long in subgroups. wgpu cannot ask browsers for them yet.
//!
//! **The head works where it is needed**: rows with a target are gathered, and logits, loss and gradient exist for a
//! chunk of them at a time.
//!
//! **A run is its seed and its step.** Batches, schedules and random numbers are functions of both, so that what has to be
//! saved is adapter, moments, step and what evaluations have come to ([`train::write_state`]): a run taken up anywhere ends
//! in the bytes of one that was never stopped. In a browser the worker keeps two such files in turn, each with its digest, in
//! the tab's storage (`www/src/runs`), and a test kills the browser to see that it holds. An evaluation is a forward
//! pass that is recorded beside the training's, and is run a pass at a time in place of a step ([`train::Evaluator`]).
//!
//! **A GPU may fail at any call.** Nothing is mapped at creation. Errors are taken from the device's handler once it has been
//! waited for: they come in the order of the calls, so what was read back is believed only after a look at them
//! ([`gpu::Gpu::check`]). In a browser a device that is silent for too long is lost ([`gpu::Patience`]), each submit that
//! is done being a sign of life. A panic ends the worker; what goes on in a new one is `www/src/recovery.ts`, and
//! `www/tests/faults` has every call fail in every way.
//!
//! **The next token is chosen on the GPU** and taken up there by the next pass, so the host reads a few bytes a token,
//! one token behind. Passes of one row have kernels of their own on GPUs: sums shared out over a workgroup, so that the
//! time is that of reading the weights once.
//!
//! **Same seed, same device, same bits.** No float atomics, reductions in a fixed order, random numbers a function of
//! seed and position. Kernels use their own `exp` and `log` where WGSL's are too coarse.
//!
//! # Invariants
//!
//! - Nothing in `gpu` knows what a transformer is; nothing outside `gpu` names a wgpu type.
//! - `web` is the only module that knows JavaScript.
//! - `io` and `data` know no GPU and no network; a [`io::ByteSource`] gives them bytes. No file is whole in memory, and
//!   a count in a file is checked against the bytes that are left before it is believed.
//! - The base is never written and has no gradients; A, B, DoRA's magnitudes, and copies of the biases and norms that are to be
//!   trained are the only trained memory.
//! - Everything works at WebGPU's default limits with no optional feature.
//! - No panic on anything a user can supply: [`Error`] says what to do.
//!
//! # What is not here yet
//!
//! Kernels tuned on a real GPU.

pub mod bench;
pub mod data;
pub mod engine;
pub mod error;
pub mod generate;
pub mod gpu;
pub mod init;
pub mod io;
pub mod kernels;
pub mod layers;
pub mod lora;
pub mod low_rank;
pub mod merge;
pub mod model;
pub mod profile;
pub mod train;
#[cfg(target_arch = "wasm32")]
pub mod web;

pub use error::{Error, Result};
