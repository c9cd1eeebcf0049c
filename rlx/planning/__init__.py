"""Planners and the models they plan with: linear-quadratic control, model predictive control, multi-parametric programs."""
