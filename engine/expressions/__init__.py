"""Conditions and value expressions in CEL: checked when saved, evaluated in a process of their own.

Kept empty of imports: that process (`engine.expressions.child`) lives in this package and must start fast.
"""
