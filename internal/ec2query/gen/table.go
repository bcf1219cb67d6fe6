package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const prefix = "awsEc2query_"

// table is what was read from the SDK. Keys are Type.Field.
type table struct {
	request  map[string]string // parameter names that are not the field's own
	response map[string]string // element names that do not follow the rule
	required map[string]bool
	lost     map[string]string // Type: parameter of an unexported field
	seen     map[string]string // every key read so far: its package, to notice two types of one name
	lists    map[string]string // response lists: the function that reads it
	items    map[string]string // such a function: the element it looks for
}

func newTable() *table {
	return &table{
		request: map[string]string{}, response: map[string]string{}, required: map[string]bool{},
		lost: map[string]string{}, seen: map[string]string{}, lists: map[string]string{}, items: map[string]string{},
	}
}

// readSerializer reads one function of serializers.go: which key a field of a
// struct is written to.
func (t *table) readSerializer(fn *ast.FuncDecl) error {
	typ, list, ok, err := t.target(fn)
	if err != nil || !ok || list {
		return err
	}
	for _, s := range fn.Body.List {
		cond, ok := s.(*ast.IfStmt)
		if !ok {
			continue
		}
		field, name, err := serialized(cond)
		if err != nil {
			return err
		}
		switch {
		case !ast.IsExported(field):
			if t.lost[typ] != "" {
				return fmt.Errorf("a second unexported field, %s", field)
			}
			t.lost[typ] = name
		case name != field:
			t.request[typ+"."+field] = name
		}
	}
	return nil
}

// serialized reads `if v.Field != nil { objectKey := object.Key("Name") … }`.
func serialized(s *ast.IfStmt) (field, name string, err error) {
	field = selected(s.Cond, "v")
	ast.Inspect(s.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || name != "" {
			return name == ""
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && (sel.Sel.Name == "Key" || sel.Sel.Name == "FlatKey") {
			name = literal(call.Args[0])
		}
		return true
	})
	if field == "" || name == "" {
		return "", "", fmt.Errorf("statement not understood: field %q, name %q", field, name)
	}
	return field, name, nil
}

// readDeserializer reads one function of deserializers.go: which element a
// field of a struct, or an item of a list, is read from.
func (t *table) readDeserializer(fn *ast.FuncDecl) error {
	typ, list, ok, err := t.target(fn)
	if err != nil || !ok || strings.HasSuffix(fn.Name.Name, "Unwrapped") {
		return err
	}
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		c, ok := n.(*ast.CaseClause)
		if !ok || err != nil {
			return err == nil
		}
		name := matched(c)
		if name == "" {
			return true
		}
		if list {
			t.items[fn.Name.Name] = name
			return true
		}
		err = t.addElement(typ, name, c)
		return true
	})
	return err
}

// addElement records the case of a struct's function that takes element name.
func (t *table) addElement(typ, name string, c *ast.CaseClause) error {
	var field, reader string
	for _, s := range c.Body {
		ast.Inspect(s, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && reader == "" {
				if id, ok := call.Fun.(*ast.Ident); ok && strings.HasPrefix(id.Name, prefix) {
					reader = id.Name
				}
			}
			if e, ok := n.(ast.Expr); ok && field == "" {
				field = selected(e, "sv")
			}
			return true
		})
	}
	if field == "" {
		return fmt.Errorf("element %s: no field takes it", name)
	}
	key := typ + "." + field
	if name != lowerFirst(field) {
		t.response[key] = name
	}
	if reader != "" {
		t.lists[key] = reader
	}
	return nil
}

// itemNames returns, by field, the item elements that are not called item.
func (t *table) itemNames() (map[string]string, error) {
	m := map[string]string{}
	for key, reader := range t.lists {
		if name := t.items[reader]; name != "" && name != "item" {
			m[key] = name
		}
	}
	if len(t.items) == 0 {
		return nil, fmt.Errorf("no list found")
	}
	return m, nil
}

// readValidator reads one function of validators.go: which fields of a struct
// must be there.
func (t *table) readValidator(fn *ast.FuncDecl) error {
	typ, list, ok, err := t.target(fn)
	if err != nil || !ok || list {
		return err
	}
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "NewErrParamRequired" {
			t.required[typ+"."+literal(call.Args[0])] = true
		}
		return true
	})
	return nil
}

// target returns the name of the type that a function's first parameter leads
// to, and whether it is a list; not ok where the function is of another sort.
func (t *table) target(fn *ast.FuncDecl) (typ string, list, ok bool, err error) {
	params := fn.Type.Params.List
	if len(params) == 0 || len(params[0].Names) != 1 || params[0].Names[0].Name != "v" {
		return "", false, false, nil
	}
	e := params[0].Type
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.ArrayType:
			e, list = x.Elt, true
		case *ast.SelectorExpr:
			return x.Sel.Name, list, true, t.see(x.Sel.Name, "types")
		case *ast.Ident:
			if list {
				return x.Name, true, true, nil
			}
			return x.Name, false, true, t.see(x.Name, "ec2")
		default:
			return "", false, false, fmt.Errorf("parameter type %T not understood", e)
		}
	}
}

// see notes the package of a type: keys carry no package, so two types of one
// name would be mistaken for each other.
func (t *table) see(typ, pkg string) error {
	if was := t.seen[typ]; was != "" && was != pkg {
		return fmt.Errorf("type %s is both in %s and in %s", typ, was, pkg)
	}
	t.seen[typ] = pkg
	return nil
}

// selected returns F of the first recv.F in e.
func selected(e ast.Expr, recv string) (field string) {
	ast.Inspect(e, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || field != "" {
			return field == ""
		}
		if id, ok := sel.X.(*ast.Ident); ok && id.Name == recv {
			field = sel.Sel.Name
		}
		return true
	})
	return field
}

// matched returns the name of `case strings.EqualFold("name", t.Name.Local)`.
func matched(c *ast.CaseClause) string {
	if len(c.List) != 1 {
		return ""
	}
	call, ok := c.List[0].(*ast.CallExpr)
	if !ok || len(call.Args) != 2 {
		return ""
	}
	if sel, ok := call.Fun.(*ast.SelectorExpr); !ok || sel.Sel.Name != "EqualFold" {
		return ""
	}
	return literal(call.Args[0])
}

// literal returns the value of a string literal, else "".
func literal(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return s
}

// lowerFirst is the rule for element names; ec2query has the same.
func lowerFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[n:]
}
