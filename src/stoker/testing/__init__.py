"""What tests are composed of beside the product's own parts. No other package imports it."""
