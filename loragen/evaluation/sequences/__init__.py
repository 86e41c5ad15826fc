"""Generators whose zoo grows by groups of experts: what each strategy of updating keeps, learns and costs."""
