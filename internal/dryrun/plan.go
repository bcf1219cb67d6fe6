package dryrun

import (
	"fmt"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go/middleware"
)

// Step is one call that would change something.
type Step struct {
	Service   string // the SDK's service ID: EC2, DLM; or who else would act
	Operation string // RunInstances
	Region    string // that the call goes to; "" for what is no call
	Place     string // what the Cloud that it goes to is called; see Named
	Times     int    // of what stands for many: how many, 0 for as many as there will be
	Input     any    // the operation's input: a pointer to the SDK's struct for calls
}

// Plan is the changes of one run, in their order. It may be used from several
// goroutines.
type Plan struct {
	mu     sync.Mutex
	steps  []Step
	made   map[string]int // prefix → how many IDs were given
	clouds []*Cloud
}

// NewPlan returns an empty plan.
func NewPlan() *Plan { return &Plan{made: map[string]int{}} }

// Add records a step that goes another way than through a client.
func (p *Plan) Add(s Step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps = append(p.steps, s)
}

// Steps returns what was planned so far.
func (p *Plan) Steps() []Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Step{}, p.steps...)
}

// Over returns a view of one region of one endpoint, for the clients that talk
// to it. direct is a client that goes straight to the endpoint; only its reads
// are used.
func (p *Plan) Over(direct Reader, region string) *Cloud {
	c := newCloud(p, direct, region)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clouds = append(p.clouds, c)
	return c
}

func (p *Plan) others() []*Cloud {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*Cloud{}, p.clouds...)
}

// placeholder marks the IDs of what would be made: hexadecimal like EC2's own,
// and of a kind that EC2 doesn't give.
const placeholder = "-dddddddddddddd"

// id gives the next placeholder ID: vol-dddddddddddddd001.
func (p *Plan) id(prefix string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made[prefix]++
	return fmt.Sprintf("%s%s%03x", prefix, placeholder, p.made[prefix])
}

// Placeholder tells whether an ID stands for something that isn't made yet.
func Placeholder(id string) bool { return strings.Contains(id, placeholder) }

// Signer is the SDK's name for the middleware that signs a second request of
// the same operation, to be sent along with the first.
const Signer = "Presign"

// Named gives the view a name, which its steps bear: a plan may go to several
// endpoints.
func (c *Cloud) Named(name string) { c.name = name }

// Attach puts the view into a client's middleware: it is one of its
// APIOptions, and must be the last.
func (c *Cloud) Attach(stack *middleware.Stack) error {
	// CopySnapshot's request for the source region is signed by a second
	// operation, which would come here too. Nothing is sent, so none is needed.
	if _, ok := stack.Initialize.Get(Signer); ok {
		if _, err := stack.Initialize.Remove(Signer); err != nil {
			return err
		}
	}
	return stack.Initialize.Add(layer{c}, middleware.After)
}

// Foresee puts an image into the view that another step of the plan will have
// made, and returns its ID.
func (c *Cloud) Foresee(i types.Image) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shelve(&i)
	return *i.ImageId
}
