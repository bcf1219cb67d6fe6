package price

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	"github.com/aws/aws-sdk-go-v2/service/pricing/types"
)

// OffersURL is where AWS publishes its price list for all to read.
const OffersURL = "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws"

// PricingAPI is what a Refresher needs of the AWS Price List API.
// *pricing.Client satisfies it.
type PricingAPI interface {
	GetProducts(context.Context, *pricing.GetProductsInput, ...func(*pricing.Options)) (*pricing.GetProductsOutput, error)
}

// EC2API is what a Refresher needs of EC2. *ec2.Client satisfies it.
type EC2API interface {
	DescribeSpotPriceHistory(context.Context, *ec2.DescribeSpotPriceHistoryInput, ...func(*ec2.Options)) (*ec2.DescribeSpotPriceHistoryOutput, error)
	DescribeReservedInstancesOfferings(context.Context, *ec2.DescribeReservedInstancesOfferingsInput, ...func(*ec2.Options)) (*ec2.DescribeReservedInstancesOfferingsOutput, error)
}

// Compile-time proof that the SDK's clients serve.
var (
	_ PricingAPI = (*pricing.Client)(nil)
	_ EC2API     = (*ec2.Client)(nil)
)

// Refresher fetches figures. What is nil isn't asked.
type Refresher struct {
	Pricing PricingAPI
	EC2     EC2API
	// HTTP reads the public offer files where the Price List API can't be
	// asked; OffersURL is where they lie, "" for AWS's own place.
	HTTP      *http.Client
	OffersURL string
	Now       func() time.Time
	Log       *slog.Logger
}

// Refresh fetches the figures of a region, of the given instance types. The
// Price List API is asked first, and the public files, which need no
// credentials and are large, when it can't. It fails only when there is
// nothing new from anywhere; what couldn't be asked is logged.
func (r *Refresher) Refresh(ctx context.Context, region string, instanceTypes []string) ([]Figure, error) {
	list, err := r.list(ctx, region, instanceTypes)
	if ctx.Err() != nil {
		return nil, err
	}
	own, ownErr := r.Own(ctx, instanceTypes)
	for k := range own {
		own[k].Region = region
	}
	list = append(list, own...)
	if len(list) == 0 {
		return nil, errors.Join(err, ownErr)
	}
	if err != nil {
		r.Log.WarnContext(ctx, "no figures of the price list", "region", region, "err", err)
	}
	return list, nil
}

// list fetches what the price list has.
func (r *Refresher) list(ctx context.Context, region string, instanceTypes []string) ([]Figure, error) {
	var err error
	if r.Pricing != nil {
		var list []Figure
		if list, err = r.products(ctx, region, instanceTypes); err == nil && len(list) > 0 {
			return list, nil
		}
		r.Log.DebugContext(ctx, "the Price List API has no figures", "region", region, "err", err)
	}
	if r.HTTP == nil || ctx.Err() != nil {
		return nil, err
	}
	list, offersErr := r.offers(ctx, region, instanceTypes)
	if offersErr != nil {
		return nil, errors.Join(err, offersErr)
	}
	return list, nil
}

// query is one question to the Price List API: a service, and attributes with
// their values.
type query struct {
	service string
	match   [][2]string
}

func queries(region string, instanceTypes []string) []query {
	here := [2]string{"regionCode", region}
	list := []query{
		{"AmazonEC2", [][2]string{here, {"productFamily", "Storage"}}},
		{"AmazonEC2", [][2]string{here, {"productFamily", "System Operation"}, {"group", "EBS IOPS"}}},
		{"AmazonEC2", [][2]string{here, {"productFamily", "Provisioned Throughput"}}},
		{"AmazonEC2", [][2]string{here, {"productFamily", "Storage Snapshot"}}},
		{"AmazonVPC", [][2]string{here, {"group", "VPCPublicIPv4Address"}}},
		{"AWSDataTransfer", [][2]string{{"fromRegionCode", region}, {"toLocation", "External"}, {"transferType", "AWS Outbound"}}},
	}
	for _, t := range instanceTypes {
		list = append(list, query{"AmazonEC2", [][2]string{
			here, {"instanceType", t}, {"operatingSystem", "Linux"}, {"tenancy", "Shared"}, {"preInstalledSw", "NA"}, {"capacitystatus", "Used"},
		}})
	}
	return list
}

func (r *Refresher) products(ctx context.Context, region string, instanceTypes []string) ([]Figure, error) {
	var list []Figure
	for _, q := range queries(region, instanceTypes) {
		in := &pricing.GetProductsInput{ServiceCode: &q.service, FormatVersion: aws.String("aws_v1")}
		for _, m := range q.match {
			in.Filters = append(in.Filters, types.Filter{Type: types.FilterTypeTermMatch, Field: aws.String(m[0]), Value: aws.String(m[1])})
		}
		pages := pricing.NewGetProductsPaginator(r.Pricing, in)
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, fmt.Errorf("ask the AWS Price List API: %w", err)
			}
			for _, text := range page.PriceList {
				found, err := parseProduct(text, region, "the AWS Price List API")
				if err != nil {
					return nil, err
				}
				list = append(list, found...)
			}
		}
	}
	return list, nil
}

// offers reads the public files of the three services.
func (r *Refresher) offers(ctx context.Context, region string, instanceTypes []string) ([]Figure, error) {
	wanted := map[string]bool{}
	for _, t := range instanceTypes {
		wanted[t] = true
	}
	base := r.OffersURL
	if base == "" {
		base = OffersURL
	}
	var list []Figure
	for _, service := range []string{"AmazonVPC", "AWSDataTransfer", "AmazonEC2"} {
		found, err := r.offer(ctx, base+"/"+service+"/current/"+region+"/index.json", region, service, wanted)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	return list, nil
}

func (r *Refresher) offer(ctx context.Context, url, region, service string, wanted map[string]bool) ([]Figure, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", url, err)
	}
	res, err := r.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read the public price list: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the public price list: %s: %s", url, res.Status)
	}
	return parseOffer(res.Body, region, "the public offer file of "+service, wanted)
}

// Own fetches what EC2 itself tells: spot prices, and reservations for a year.
// It fails only when it has nothing to return.
func (r *Refresher) Own(ctx context.Context, instanceTypes []string) ([]Figure, error) {
	if r.EC2 == nil || len(instanceTypes) == 0 {
		return nil, nil
	}
	spot, spotErr := r.spot(ctx, instanceTypes)
	var reserved []Figure
	var reservedErr error
	for _, t := range instanceTypes {
		found, err := r.reserved(ctx, t)
		if err != nil {
			reservedErr = err
			break
		}
		reserved = append(reserved, found...)
	}
	err := errors.Join(spotErr, reservedErr)
	if len(spot)+len(reserved) > 0 && err != nil {
		r.Log.DebugContext(ctx, "not all of EC2's own figures", "err", err)
		err = nil
	}
	return append(spot, reserved...), err
}

// spot asks for the prices that hold now: with both times the same, EC2 answers
// with those alone.
func (r *Refresher) spot(ctx context.Context, instanceTypes []string) ([]Figure, error) {
	now := r.Now().UTC()
	in := &ec2.DescribeSpotPriceHistoryInput{StartTime: &now, EndTime: &now, ProductDescriptions: []string{string(ec2types.RIProductDescriptionLinuxUnix)}}
	for _, t := range instanceTypes {
		in.InstanceTypes = append(in.InstanceTypes, ec2types.InstanceType(t))
	}
	var all []ec2types.SpotPrice
	pages := ec2.NewDescribeSpotPriceHistoryPaginator(r.EC2, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("ask EC2 for spot prices: %w", err)
		}
		all = append(all, page.SpotPriceHistory...)
	}
	return spotFigures(all, now), nil
}

// spotFigures keeps the newest price of each type and zone.
func spotFigures(all []ec2types.SpotPrice, now time.Time) []Figure {
	type key struct{ item, zone string }
	newest := map[key]time.Time{}
	prices := map[key]Amount{}
	for _, p := range all {
		a, err := ParseAmount(aws.ToString(p.SpotPrice))
		if err != nil || a == 0 || p.ProductDescription != "" && p.ProductDescription != ec2types.RIProductDescriptionLinuxUnix {
			continue
		}
		k := key{string(p.InstanceType), aws.ToString(p.AvailabilityZone)}
		if t := aws.ToTime(p.Timestamp); prices[k] == 0 || t.After(newest[k]) {
			newest[k], prices[k] = t, a
		}
	}
	var list []Figure
	for k, a := range prices {
		list = append(list, Figure{
			Kind: KindSpot, Item: k.item, Zone: k.zone, Unit: unitHour, Price: a, Currency: "USD",
			Date: now.Format(time.DateOnly), Source: "EC2's spot price history",
		})
	}
	return list
}

const yearSeconds = 31536000

// reserved asks for one type's reservations that AWS itself sells for a year.
func (r *Refresher) reserved(ctx context.Context, instanceType string) ([]Figure, error) {
	var all []ec2types.ReservedInstancesOffering
	pages := ec2.NewDescribeReservedInstancesOfferingsPaginator(r.EC2, &ec2.DescribeReservedInstancesOfferingsInput{
		InstanceType: ec2types.InstanceType(instanceType), ProductDescription: ec2types.RIProductDescriptionLinuxUnix,
		InstanceTenancy: ec2types.TenancyDefault, OfferingClass: ec2types.OfferingClassTypeStandard,
		MinDuration: aws.Int64(yearSeconds), MaxDuration: aws.Int64(yearSeconds), IncludeMarketplace: aws.Bool(false),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("ask EC2 for reservations of %s: %w", instanceType, err)
		}
		all = append(all, page.ReservedInstancesOfferings...)
	}
	return reservedFigures(all, r.Now()), nil
}

// reservedFigures are one figure a type and way to pay. What is no standard
// reservation of a year, or costs nothing, is left out.
func reservedFigures(all []ec2types.ReservedInstancesOffering, now time.Time) []Figure {
	type key struct {
		kind Kind
		item string
	}
	seen := map[key]bool{}
	var list []Figure
	for _, o := range all {
		kind, ok := reservedKind(string(o.OfferingType))
		k := key{kind, string(o.InstanceType)}
		hour, exact := hourly(o)
		if !ok || !exact || seen[k] || aws.ToInt64(o.Duration) != yearSeconds || aws.ToBool(o.Marketplace) ||
			o.ProductDescription != ec2types.RIProductDescriptionLinuxUnix || o.OfferingClass == ec2types.OfferingClassTypeConvertible ||
			o.CurrencyCode != "" && o.CurrencyCode != ec2types.CurrencyCodeValuesUsd {
			continue
		}
		// FixedPrice is a float32: exact to the cent, and AWS asks for no less.
		upfront, err := ParseAmount(strconv.FormatFloat(float64(aws.ToFloat32(o.FixedPrice)), 'f', 2, 64))
		if err != nil || upfront+hour == 0 {
			continue
		}
		seen[k] = true
		list = append(list, Figure{
			Kind: kind, Item: k.item, Unit: unitHour, Price: hour, Upfront: upfront, Currency: "USD",
			Date: now.UTC().Format(time.DateOnly), Source: "EC2's reserved instances offerings",
		})
	}
	return list
}

// hourly is what a reservation costs for each hour of its year.
func hourly(o ec2types.ReservedInstancesOffering) (Amount, bool) {
	sum := float64(aws.ToFloat32(o.UsagePrice))
	for _, c := range o.RecurringCharges {
		if c.Frequency != ec2types.RecurringChargeFrequencyHourly {
			return 0, false
		}
		sum += aws.ToFloat64(c.Amount)
	}
	if math.IsNaN(sum) || sum < 0 || sum > 1e6 {
		return 0, false
	}
	a, err := ParseAmount(strconv.FormatFloat(sum, 'f', decimals, 64))
	return a, err == nil
}
