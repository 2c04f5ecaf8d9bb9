//! A parsed template written anew, so that what it does with texts and lists goes through the meter.
//!
//! minijinja has no hook on its operators. Here each that makes a text or a list, and each that reads one through,
//! becomes a filter of ours; their names are none that a template can spell.

use minijinja::machinery::ast::{
    self, BinOpKind, CallArg, CompareOp, EmitExpr, Expr, Filter, ForLoop, IfCond, IfExpr, Macro, Spanned, Stmt,
};
use minijinja::machinery::{Span, Token, WhitespaceConfig, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind, Value};

use super::meter::{ADD, CONCAT, KEEP, MADE, MULTIPLY, READ, SLICE, TOUCH};

/// Tokens between one pair of brackets, as operators nest on the stack without end otherwise. Published ones have 40.
const MAX_TOKENS: usize = 500;
/// Branches, which nest likewise.
const MAX_BRANCHES: usize = 200;

type Result<T> = std::result::Result<T, Error>;

/// The template as it is to be compiled.
pub(super) fn metered<'a>(name: &'a str, source: &'a str, white_space: WhitespaceConfig) -> Result<Stmt<'a>> {
    let (mut tokens, mut branches) = (0, 0);
    for token in tokenize(source, false, SyntaxConfig, white_space) {
        // What is no token is for the parser to report.
        match token.map(|(token, _)| token) {
            Err(_) => break,
            Ok(Token::BlockStart | Token::VariableStart) => tokens = 0,
            Ok(Token::Ident("elif")) => branches += 1,
            Ok(_) => {}
        }
        tokens += 1;
        if tokens > MAX_TOKENS || branches > MAX_BRANCHES {
            let message = format!(
                "it has more than {MAX_TOKENS} words between a pair of brackets, or more than {MAX_BRANCHES} branches"
            );
            return Err(Error::new(ErrorKind::SyntaxError, message));
        }
    }
    statement(&parse(source, name, SyntaxConfig, white_space)?)
}

fn unsupported<T>(what: &str, span: Span) -> Result<T> {
    let message = format!("{what} is not supported (its line {})", span.start_line);
    Err(Error::new(ErrorKind::SyntaxError, message))
}

fn all<'a>(body: &[Stmt<'a>]) -> Result<Vec<Stmt<'a>>> {
    body.iter().map(statement).collect()
}

fn statement<'a>(stmt: &Stmt<'a>) -> Result<Stmt<'a>> {
    Ok(match stmt {
        Stmt::Template(s) => Stmt::Template(Spanned::new(ast::Template { children: all(&s.children)? }, s.span())),
        Stmt::EmitExpr(s) => Stmt::EmitExpr(Spanned::new(EmitExpr { expr: expr(&s.expr)? }, s.span())),
        // As it is, it would be written without anyone being asked.
        Stmt::EmitRaw(s) => Stmt::EmitExpr(Spanned::new(EmitExpr { expr: constant(s.raw.into(), s.span()) }, s.span())),
        Stmt::ForLoop(s) => {
            let filter_expr = optional(&s.filter_expr)?;
            let (target, iter) = (target(&s.target)?, call(TOUCH, expr(&s.iter)?, vec![]));
            let (body, else_body) = (all(&s.body)?, all(&s.else_body)?);
            let recursive = s.recursive;
            Stmt::ForLoop(Spanned::new(ForLoop { target, iter, filter_expr, recursive, body, else_body }, s.span()))
        }
        Stmt::IfCond(s) => {
            let (true_body, false_body) = (all(&s.true_body)?, all(&s.false_body)?);
            Stmt::IfCond(Spanned::new(IfCond { expr: expr(&s.expr)?, true_body, false_body }, s.span()))
        }
        Stmt::WithBlock(s) => {
            let pair = |(name, value): &(Expr<'a>, Expr<'a>)| Ok((target(name)?, expr(value)?));
            let assignments = s.assignments.iter().map(pair).collect::<Result<_>>()?;
            Stmt::WithBlock(Spanned::new(ast::WithBlock { assignments, body: all(&s.body)? }, s.span()))
        }
        Stmt::Set(s) => {
            let mut value = expr(&s.expr)?;
            if matches!(s.target, Expr::GetAttr(_)) {
                value = call(KEEP, value, vec![]);
            }
            Stmt::Set(Spanned::new(ast::Set { target: target(&s.target)?, expr: value }, s.span()))
        }
        Stmt::SetBlock(s) => {
            let (target, filter) = (target(&s.target)?, optional(&s.filter)?);
            Stmt::SetBlock(Spanned::new(ast::SetBlock { target, filter, body: all(&s.body)? }, s.span()))
        }
        Stmt::FilterBlock(s) => {
            let (filter, body) = (expr(&s.filter)?, all(&s.body)?);
            Stmt::FilterBlock(Spanned::new(ast::FilterBlock { filter, body }, s.span()))
        }
        Stmt::Block(s) => {
            let (name, required) = (s.name, s.required);
            Stmt::Block(Spanned::new(ast::Block { name, required, body: all(&s.body)? }, s.span()))
        }
        Stmt::Macro(s) => Stmt::Macro(macro_of(s)?),
        Stmt::CallBlock(s) => {
            let (call, macro_decl) = (call_of(&s.call)?, macro_of(&s.macro_decl)?);
            Stmt::CallBlock(Spanned::new(ast::CallBlock { call, macro_decl }, s.span()))
        }
        Stmt::Continue(s) => Stmt::Continue(Spanned::new(ast::Continue, s.span())),
        Stmt::Break(s) => Stmt::Break(Spanned::new(ast::Break, s.span())),
        Stmt::Do(s) => Stmt::Do(Spanned::new(ast::Do { call: call_of(&s.call)? }, s.span())),
        Stmt::AutoEscape(s) => return unsupported("'autoescape'", s.span()),
        Stmt::Import(s) => return unsupported("'import'", s.span()),
        Stmt::FromImport(s) => return unsupported("'from'", s.span()),
        Stmt::Extends(s) => return unsupported("'extends'", s.span()),
        Stmt::Include(s) => return unsupported("'include'", s.span()),
    })
}

fn macro_of<'a>(s: &Spanned<Macro<'a>>) -> Result<Spanned<Macro<'a>>> {
    let args = s.args.iter().map(target).collect::<Result<_>>()?;
    let (defaults, body) = (s.defaults.iter().map(expr).collect::<Result<_>>()?, all(&s.body)?);
    Ok(Spanned::new(Macro { name: s.name, args, defaults, body }, s.span()))
}

fn call_of<'a>(s: &Spanned<ast::Call<'a>>) -> Result<Spanned<ast::Call<'a>>> {
    Ok(Spanned::new(ast::Call { expr: expr(&s.expr)?, args: arguments(&s.args, |arg| arg)? }, s.span()))
}

/// What is assigned to: names, in lists or alone, and fields of a namespace.
fn target<'a>(e: &Expr<'a>) -> Result<Expr<'a>> {
    match e {
        Expr::List(s) => {
            let items = s.items.iter().map(target).collect::<Result<_>>()?;
            Ok(Expr::List(Spanned::new(ast::List { items }, s.span())))
        }
        other => expr(other),
    }
}

fn constant<'a>(value: Value, span: Span) -> Expr<'a> {
    Expr::Const(Spanned::new(ast::Const { value }, span))
}

/// `expr|name(args)`.
fn call<'a>(name: &'static str, expr: Expr<'a>, args: Vec<Expr<'a>>) -> Expr<'a> {
    // Numbers, names and texts of the template itself are short.
    if matches!(expr, Expr::Const(_)) && [TOUCH, READ, MADE].contains(&name) {
        return expr;
    }
    let span = expr.span();
    let args = args.into_iter().map(CallArg::Pos).collect();
    Expr::Filter(Spanned::new(Filter { name, expr: Some(expr), args }, span))
}

fn optional<'a>(e: &Option<Expr<'a>>) -> Result<Option<Expr<'a>>> {
    e.as_ref().map(expr).transpose()
}

fn arguments<'a>(args: &[CallArg<'a>], pay: impl Fn(Expr<'a>) -> Expr<'a>) -> Result<Vec<CallArg<'a>>> {
    let argument = |arg: &CallArg<'a>| match arg {
        CallArg::Pos(e) => Ok(CallArg::Pos(pay(expr(e)?))),
        CallArg::Kwarg(name, e) => Ok(CallArg::Kwarg(name, pay(expr(e)?))),
        CallArg::PosSplat(e) | CallArg::KwargSplat(e) => unsupported("'*' before an argument", e.span()),
    };
    args.iter().map(argument).collect()
}

fn expr<'a>(e: &Expr<'a>) -> Result<Expr<'a>> {
    let touched = |e: &Expr<'a>| Ok::<_, Error>(call(TOUCH, expr(e)?, vec![]));
    let read = |e: &Expr<'a>| Ok::<_, Error>(call(READ, expr(e)?, vec![]));
    Ok(match e {
        Expr::Var(s) => Expr::Var(Spanned::new(ast::Var { id: s.id }, s.span())),
        Expr::Const(s) => constant(s.value.clone(), s.span()),
        Expr::Slice(s) => {
            let bound = |bound: &Option<Expr<'a>>| match optional(bound) {
                Ok(bound) => Ok(bound.unwrap_or_else(|| constant(().into(), s.span()))),
                Err(error) => Err(error),
            };
            call(SLICE, expr(&s.expr)?, vec![bound(&s.start)?, bound(&s.stop)?, bound(&s.step)?])
        }
        Expr::UnaryOp(s) => {
            let negates = matches!(s.op, ast::UnaryOpKind::Not);
            let op = if negates { ast::UnaryOpKind::Not } else { ast::UnaryOpKind::Neg };
            Expr::UnaryOp(Spanned::new(ast::UnaryOp { op, expr: expr(&s.expr)? }, s.span()))
        }
        Expr::BinOp(s) => match s.op {
            BinOpKind::Concat => call(CONCAT, expr(&s.left)?, vec![expr(&s.right)?]),
            BinOpKind::Add => call(ADD, expr(&s.left)?, vec![expr(&s.right)?]),
            BinOpKind::Mul => call(MULTIPLY, expr(&s.left)?, vec![expr(&s.right)?]),
            op @ (BinOpKind::ScAnd
            | BinOpKind::ScOr
            | BinOpKind::Sub
            | BinOpKind::Div
            | BinOpKind::FloorDiv
            | BinOpKind::Rem
            | BinOpKind::Pow) => {
                let (left, right) = (expr(&s.left)?, expr(&s.right)?);
                Expr::BinOp(Spanned::new(ast::BinOp { op, left, right }, s.span()))
            }
            op @ (BinOpKind::Eq
            | BinOpKind::Ne
            | BinOpKind::Lt
            | BinOpKind::Lte
            | BinOpKind::Gt
            | BinOpKind::Gte
            | BinOpKind::In) => {
                let (left, right) = (read(&s.left)?, read(&s.right)?);
                Expr::BinOp(Spanned::new(ast::BinOp { op, left, right }, s.span()))
            }
        },
        Expr::Compare(s) => {
            let compare = |one: &CompareOp<'a>| Ok(CompareOp { op: one.op, expr: read(&one.expr)? });
            let ops = s.ops.iter().map(compare).collect::<Result<_>>()?;
            Expr::Compare(Spanned::new(ast::Compare { expr: read(&s.expr)?, ops }, s.span()))
        }
        Expr::IfExpr(s) => {
            let (test_expr, true_expr) = (expr(&s.test_expr)?, expr(&s.true_expr)?);
            Expr::IfExpr(Spanned::new(IfExpr { test_expr, true_expr, false_expr: optional(&s.false_expr)? }, s.span()))
        }
        Expr::Filter(s) => {
            let args = arguments(&s.args, |arg| call(TOUCH, arg, vec![]))?;
            // A block's filter has no expression: what the block wrote is paid for already.
            let expr = s.expr.as_ref().map(touched).transpose()?;
            Expr::Filter(Spanned::new(Filter { name: s.name, expr, args }, s.span()))
        }
        Expr::Test(s) => {
            let args = arguments(&s.args, |arg| call(READ, arg, vec![]))?;
            Expr::Test(Spanned::new(ast::Test { name: s.name, expr: touched(&s.expr)?, args }, s.span()))
        }
        Expr::GetAttr(s) => Expr::GetAttr(Spanned::new(ast::GetAttr { expr: expr(&s.expr)?, name: s.name }, s.span())),
        Expr::GetItem(s) => {
            let (expr, subscript_expr) = (touched(&s.expr)?, touched(&s.subscript_expr)?);
            Expr::GetItem(Spanned::new(ast::GetItem { expr, subscript_expr }, s.span()))
        }
        Expr::Call(s) => Expr::Call(call_of(s)?),
        Expr::List(s) => {
            let items = s.items.iter().map(expr).collect::<Result<_>>()?;
            call(MADE, Expr::List(Spanned::new(ast::List { items }, s.span())), vec![])
        }
        Expr::Map(s) => {
            let exprs = |list: &[Expr<'a>]| list.iter().map(expr).collect::<Result<Vec<_>>>();
            let (keys, values) = (exprs(&s.keys)?, exprs(&s.values)?);
            call(MADE, Expr::Map(Spanned::new(ast::Map { keys, values }, s.span())), vec![])
        }
    })
}
