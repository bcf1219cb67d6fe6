package jsontemplate

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template/parse"
)

// Template is a parsed template.
type Template struct{ root *parse.ListNode }

// FieldError says that a template asks for what a value hasn't got.
type FieldError struct {
	Field string
	Known []string // sorted; empty where the value has no fields at all
}

// Error implements error.
func (e *FieldError) Error() string {
	if len(e.Known) == 0 {
		return fmt.Sprintf("there is no field %q here", e.Field)
	}
	return fmt.Sprintf("there is no field %q; there are %s", e.Field, strings.Join(e.Known, ", "))
}

// Parse reads a template.
func Parse(text string) (*Template, error) {
	known := map[string]any{}
	for name := range functions() {
		known[name] = name
	}
	trees, err := parse.Parse("format", text, "", "", known)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: "))
	}
	if trees["format"] == nil {
		return &Template{&parse.ListNode{}}, nil
	}
	return &Template{trees["format"].Root}, nil
}

// Execute writes the template with dot, which Tree made.
func (t *Template) Execute(w io.Writer, dot any) error {
	r := &runner{w: w, functions: functions(), vars: []variable{{"$", dot}}}
	return r.list(dot, t.root)
}

// runner is one execution of a template.
type runner struct {
	w         io.Writer
	functions map[string]function
	vars      []variable
}

type variable struct {
	name  string
	value any
}

// errBreak and errContinue end a turn of a range.
var (
	errBreak    = errors.New("break outside of range")
	errContinue = errors.New("continue outside of range")
)

func (r *runner) list(dot any, list *parse.ListNode) error {
	if list == nil {
		return nil
	}
	mark := len(r.vars)
	defer func() { r.vars = r.vars[:mark] }()
	for _, n := range list.Nodes {
		if err := r.node(dot, n); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) node(dot any, n parse.Node) error {
	switch n := n.(type) {
	case *parse.TextNode:
		_, err := r.w.Write(n.Text)
		return err
	case *parse.ActionNode:
		v, err := r.pipe(dot, n.Pipe)
		if err != nil || len(n.Pipe.Decl) > 0 {
			return err
		}
		_, err = io.WriteString(r.w, text(v))
		return err
	case *parse.IfNode:
		return r.branch(dot, &n.BranchNode, false)
	case *parse.WithNode:
		return r.branch(dot, &n.BranchNode, true)
	case *parse.RangeNode:
		return r.each(dot, n)
	case *parse.CommentNode:
		return nil
	case *parse.BreakNode:
		return errBreak
	case *parse.ContinueNode:
		return errContinue
	}
	return fmt.Errorf("%s isn't supported here", n)
}

func (r *runner) branch(dot any, b *parse.BranchNode, with bool) error {
	mark := len(r.vars)
	defer func() { r.vars = r.vars[:mark] }()
	v, err := r.pipe(dot, b.Pipe)
	if err != nil {
		return err
	}
	if !truth(v) {
		return r.list(dot, b.ElseList)
	}
	if with {
		dot = v
	}
	return r.list(dot, b.List)
}

func (r *runner) each(dot any, n *parse.RangeNode) error {
	mark := len(r.vars)
	defer func() { r.vars = r.vars[:mark] }()
	decl := n.Pipe.Decl
	v, err := r.value(dot, n.Pipe)
	if err != nil {
		return err
	}
	var keys, items []any
	switch v := v.(type) {
	case nil:
	case []any:
		for k, x := range v {
			keys, items = append(keys, int64(k)), append(items, x)
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			keys, items = append(keys, k), append(items, v[k])
		}
	default:
		return fmt.Errorf("can't range over %s", text(v))
	}
	if len(items) == 0 {
		return r.list(dot, n.ElseList)
	}
	for k := range items {
		r.vars = r.vars[:mark]
		switch len(decl) {
		case 1:
			r.vars = append(r.vars, variable{decl[0].Ident[0], items[k]})
		case 2:
			r.vars = append(r.vars, variable{decl[0].Ident[0], keys[k]}, variable{decl[1].Ident[0], items[k]})
		}
		err := r.list(items[k], n.List)
		if errors.Is(err, errBreak) {
			return nil
		}
		if err != nil && !errors.Is(err, errContinue) {
			return err
		}
	}
	return nil
}

// pipe evaluates a pipeline and sets the variable that it declares.
func (r *runner) pipe(dot any, p *parse.PipeNode) (any, error) {
	v, err := r.value(dot, p)
	if err != nil {
		return nil, err
	}
	for _, d := range p.Decl {
		if !p.IsAssign {
			r.vars = append(r.vars, variable{d.Ident[0], v})
			continue
		}
		for k := len(r.vars) - 1; k >= 0; k-- {
			if r.vars[k].name == d.Ident[0] {
				r.vars[k].value = v
				break
			}
		}
	}
	return v, nil
}

func (r *runner) value(dot any, p *parse.PipeNode) (any, error) {
	var v any
	for k, cmd := range p.Cmds {
		var last []any
		if k > 0 {
			last = []any{v}
		}
		var err error
		if v, err = r.command(dot, cmd, last); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// command evaluates a word, or a function with its arguments; last is what
// comes through the pipe.
func (r *runner) command(dot any, c *parse.CommandNode, last []any) (any, error) {
	if id, ok := c.Args[0].(*parse.IdentifierNode); ok {
		var args []any
		for _, n := range c.Args[1:] {
			v, err := r.word(dot, n)
			if err != nil {
				return nil, err
			}
			args = append(args, v)
		}
		v, err := r.functions[id.Ident](append(args, last...))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id.Ident, err)
		}
		return v, nil
	}
	if len(c.Args) > 1 || len(last) > 0 {
		return nil, fmt.Errorf("%s is no function", c.Args[0])
	}
	return r.word(dot, c.Args[0])
}

func (r *runner) word(dot any, n parse.Node) (any, error) {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot, nil
	case *parse.NilNode:
		return nil, nil
	case *parse.BoolNode:
		return n.True, nil
	case *parse.StringNode:
		return n.Text, nil
	case *parse.NumberNode:
		if n.IsInt {
			return n.Int64, nil
		}
		return n.Float64, nil
	case *parse.FieldNode:
		return fields(dot, n.Ident)
	case *parse.VariableNode:
		for k := len(r.vars) - 1; k >= 0; k-- {
			if r.vars[k].name == n.Ident[0] {
				return fields(r.vars[k].value, n.Ident[1:])
			}
		}
		return nil, fmt.Errorf("there is no variable %s", n.Ident[0])
	case *parse.ChainNode:
		v, err := r.word(dot, n.Node)
		if err != nil {
			return nil, err
		}
		return fields(v, n.Field)
	case *parse.PipeNode:
		return r.value(dot, n)
	case *parse.IdentifierNode:
		return r.functions[n.Ident](nil)
	}
	return nil, fmt.Errorf("%s isn't supported here", n)
}

// fields follows names into a value. Nothing has no fields, and none that is
// missing: {{.root.device}} of a server without a root prints nothing.
func fields(v any, names []string) (any, error) {
	for _, name := range names {
		if v == nil {
			return nil, nil
		}
		m, ok := v.(map[string]any)
		if !ok {
			return nil, &FieldError{Field: name}
		}
		x, ok := m[name]
		if !ok {
			return nil, &FieldError{Field: name, Known: slices.Sorted(maps.Keys(m))}
		}
		v = x
	}
	return v, nil
}
